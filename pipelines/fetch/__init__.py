"""Fetch images from the web, safely even for a hostile manifest.

A manifest is untrusted input: a URL in it may name the machine's own services, a cloud's metadata
server, a file, an endless stream or a terabyte image. `Fetcher` requests only public addresses and
explicitly allowed ones, within limits. It reports a failed request with one reason from a closed
list. `fetch_shard` runs img2dataset's own downloader on top of it.
"""

from open_diht.pipelines.fetch.settings import DownloadSettings

__all__ = ["DownloadSettings"]
