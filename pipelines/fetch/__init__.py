"""Images from the web, fetched so that a hostile manifest can harm nobody.

A manifest is foreign input: an address in it may name the machine's own services, a cloud's metadata server, a file, a
stream without end or an image of a terabyte. `Fetcher` asks public addresses only, within bounds, and answers every
failure with one reason out of a closed list. `fetch_shard` lets img2dataset's own downloader do the work on top of it.
"""

from open_diht.pipelines.fetch.addresses import Allowed, is_public
from open_diht.pipelines.fetch.fetcher import Fetched, Fetcher
from open_diht.pipelines.fetch.reasons import FetchError, Reason
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
