"""Networks of well-known libraries, built with random weights by the libraries' own constructors."""

from architectures import torchvision_operations

torchvision_operations.prepare()
