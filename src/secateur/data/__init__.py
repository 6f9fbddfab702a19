"""The built-in data set, the data formats a job file can name, and the batches made from them."""

from secateur.data.batches import TrainBatches, batches
from secateur.data.dataset import Dataset, load_dataset
from secateur.data.division import Split, split

__all__ = ["Dataset", "Split", "TrainBatches", "batches", "load_dataset", "split"]
