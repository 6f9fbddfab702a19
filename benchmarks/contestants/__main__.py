"""`python -m contestants CONTESTANT LIBRARY NETWORK`: one look, as a line of JSON; the last line that is printed."""

from __future__ import annotations

import json
import sys

from contestants.looking import look

if __name__ == "__main__":
    print("\n" + json.dumps(look(*sys.argv[1:])))
