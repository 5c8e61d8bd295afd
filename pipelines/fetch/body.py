"""Read and decompress a response's body, within a byte limit."""

import http.client
import zlib
from collections.abc import Iterator

from open_diht.filters.download import FetchError, Reason

_CHUNK = 256 * 2**10  # most images arrive in one read; with 64 threads, these buffers take 16 MiB
_SLICE = 16 * 2**10
"""Number of bytes unpacked at a time. It is small, since each member of a gzip stream copies the
bytes behind it."""
PLAIN = "identity"
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def read_body(answer: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Return the decompressed body, of at most `max_bytes` both as sent and after decompression. We
    request uncompressed bytes, but some servers compress anyway. gzip and deflate are decompressed
    in steps, to stop a decompression bomb in time. Raise FetchError too_large, or bad_response for
    a body that is truncated, empty, corrupt or in another encoding."""
    # From Content-Length; None for chunked bodies and those that end with the connection.
    promised = answer.length
    if promised is not None and promised > max_bytes:
        raise FetchError(
            Reason.TOO_LARGE, f"{promised} bytes announced; at most {max_bytes} are accepted"
        )
    encoding = _encoding(answer)
    if encoding == PLAIN:
        body = b"".join(_pieces(answer, promised, max_bytes))
    elif encoding in _WINDOWS:
        body = _unpacked(_pieces(answer, promised, max_bytes), encoding, max_bytes)
    else:
        raise FetchError(
            Reason.BAD_RESPONSE, f"content encoding {encoding[:40]!r}, which was not requested"
        )
    if not body:
        raise FetchError(Reason.BAD_RESPONSE, "an empty body")
    return body


def read_start(answer: http.client.HTTPResponse, most: int) -> bytes:
    """Return at most the first `most` bytes of a decompressed body; unlike `read_body`, also of a
    larger or an empty one. Raise FetchError bad_response for one that is truncated or in another
    encoding."""
    promised = answer.length
    body = answer.read(most)
    if promised is not None and len(body) < min(promised, most):
        raise _truncated(len(body), promised)
    encoding = _encoding(answer)
    if encoding == PLAIN or not body:
        return body
    try:
        return zlib.decompressobj(_WINDOWS[encoding]).decompress(body, most)
    except (KeyError, zlib.error) as error:
        raise FetchError(Reason.BAD_RESPONSE, f"content encoding {encoding[:40]!r}") from error


def _encoding(answer: http.client.HTTPResponse) -> str:
    """Return the encoding of a body; `PLAIN` has several names."""
    encoding = (answer.getheader("Content-Encoding") or PLAIN).strip().lower()
    return PLAIN if encoding in ("", "none") else encoding


def _truncated(count: int, promised: int) -> FetchError:
    message = f"the body ends after {count} of {promised} bytes"
    return FetchError(Reason.BAD_RESPONSE, message, temporary=True)


def _pieces(
    answer: http.client.HTTPResponse, promised: int | None, max_bytes: int
) -> Iterator[bytes]:
    count = 0
    # A body of unknown length ends with an empty read. One of known length needs no further read.
    while (promised is None or count < promised) and (piece := answer.read(_CHUNK)):
        count += len(piece)
        if count > max_bytes:
            raise FetchError(Reason.TOO_LARGE, f"more than {max_bytes} bytes")
        yield piece
    if promised is not None and count < promised:
        raise _truncated(count, promised)


def _unpacked(pieces: Iterator[bytes], encoding: str, max_bytes: int) -> bytes:
    """Return the decompressed body. A gzip body may consist of several members."""
    unpack = zlib.decompressobj(_WINDOWS[encoding])
    out = bytearray()
    try:
        for piece in (one[at : at + _SLICE] for one in pieces for at in range(0, len(one), _SLICE)):
            while piece:
                if unpack.eof:
                    if encoding == "deflate" or piece[:1] != b"\x1f":
                        break  # what follows is no part of the body
                    unpack = zlib.decompressobj(_WINDOWS[encoding])
                # One byte too many reveals a bomb.
                out += unpack.decompress(piece, max_bytes + 1 - len(out))
                if len(out) > max_bytes:
                    raise FetchError(Reason.TOO_LARGE, f"more than {max_bytes} bytes when unpacked")
                piece = unpack.unused_data
    except zlib.error as error:
        raise FetchError(Reason.BAD_RESPONSE, f"broken {encoding}: {error}") from error
    if not unpack.eof:
        raise FetchError(
            Reason.BAD_RESPONSE, f"the {encoding} stream ends too early", temporary=True
        )
    return bytes(out)
