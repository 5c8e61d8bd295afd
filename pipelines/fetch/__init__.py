"""Fetch images from the web, safely even for a hostile manifest.

A manifest is untrusted input: a URL in it may name the machine's own services, a cloud's metadata server, a file, an
endless stream or a terabyte image. `Fetcher` requests only public addresses and explicitly allowed ones, within limits.
It reports a failed request with one reason from a closed list. `fetch_shard` runs img2dataset's own downloader on top
of it.
"""

from open_diht.filters.download import FetchError, Reason
from open_diht.pipelines.fetch.addresses import Allowed, is_public
from open_diht.pipelines.fetch.fetcher import Fetched, Fetcher
from open_diht.pipelines.fetch.settings import DownloadSettings
from open_diht.pipelines.fetch.urls import Target, parse_url

__all__ = [
    "Allowed",
    "DownloadSettings",
    "FetchError",
    "Fetched",
    "Fetcher",
    "Reason",
    "Target",
    "is_public",
    "parse_url",
]
