"""Fetches the audio that a job's address points to.

The address comes from a stranger, so the SDK's guarded client does the asking: it resolves
the name once, refuses whatever is not public, connects to the very address that it has
checked, and does all of this again for each redirect.
"""

import threading
import time

from voxtral_worker.errors import BadInput, TooLarge

MAX_BYTES = 50 * 1024 * 1024
MAX_SECONDS = 60.0
SILENCE_S = 10
CHUNK_BYTES = 256 * 1024


def fetch(url: str, is_over: threading.Event) -> bytes:
    """The bytes behind an address; blocks for up to a minute.

    Gives up early once `is_over` is set. Raises BadInput or TooLarge with a reason that
    does not tell what is inside the worker's network.
    """
    # Imported here: the SDK takes 1.4 s, and most processes never fetch anything.
    from runpod.serverless.utils.rp_ssrf import SSRFError, safe_get

    deadline_s = time.monotonic() + MAX_SECONDS
    try:
        with safe_get(url, stream=True, timeout=SILENCE_S) as response:
            if response.status_code != 200:
                raise BadInput(f"the address answered with status {response.status_code}")
            data = bytearray()
            for chunk in response.iter_content(CHUNK_BYTES):
                data += chunk
                if len(data) > MAX_BYTES:
                    raise TooLarge(f"the file is larger than {MAX_BYTES >> 20} MiB")
                if is_over.is_set() or time.monotonic() > deadline_s:
                    raise BadInput(f"the file did not come within {MAX_SECONDS:g} s")
            return bytes(data)
    except SSRFError:
        raise BadInput("the address is not a public one, or cannot be resolved") from None
    except (OSError, ValueError):
        # All of requests' errors are OSErrors; names that are no names are ValueErrors.
        raise BadInput("the address cannot be fetched") from None
