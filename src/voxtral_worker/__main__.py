"""`python -m voxtral_worker`: the streaming server only."""

import sys

from voxtral_worker.worker import main

if __name__ == "__main__":
    sys.exit(main(None))
