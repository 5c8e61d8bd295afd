"""The description of a data set: where its manifest is published and how its rows are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from open_diht.common.fields import BadValue, build
from open_diht.common.naming import nearest
from open_diht.common.spelling import spelled
from open_diht.common.yaml_files import Shelf, read_yaml
from open_diht.pipelines.datasets.roles import ALIASES, ROLE_NAMES, Roles


class DatasetError(Exception):
    """An error in a data set's name, YAML file or setting. The message says what is wrong and what
    to write instead."""


CaptionList = Literal["first", "refuse"]
CAPTION_LISTS: tuple[str, ...] = get_args(CaptionList)
READ_AS = ("format", "header", "columns", "delimiter", "caption_list", "images_root")
"""The fields other than roles that a user may set, see `Dataset.with_roles`."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The description of how to find and read the manifests of one data set.

    Raises DatasetError for an unknown role, a bad `delimiter` or `caption_list`, repeated
    `columns`, and fields that contradict each other.
    """

    name: str
    """Name to type, and name of the folder under data/."""
    title: str
    """Name as its authors write it."""
    homepage: str
    """URL of its description, or ""."""
    where: str
    """Where the manifest is published, as text for people."""
    size: str
    """Rows and bytes of the manifest, as text for people; "unknown" if unknown."""
    license: str
    """License of the manifest, as text for people; "unknown" if unknown."""
    default_glob: str
    """Glob of the manifest files, relative to data/<name>/ or to a folder that INPUT names."""
    format: str = "auto"
    """File format. auto: detected from the extension, then from the first bytes. The name of a
    format (parquet, tsv, csv, jsonl, webdataset, or one that a plugin registers) applies whatever
    the file's name. The built-in data sets use auto, because their rows occur both as published and
    as img2dataset's shards."""
    header: bool = True
    """Whether a TSV or CSV file starts with a line of column names."""
    columns: tuple[str, ...] = ()
    """Names of the columns of TSV and CSV files without a header, in order."""
    delimiter: str = ","
    """Field separator of CSV files, one character. TSV always uses tab."""
    roles: Roles = field(default_factory=Roles)
    """Columns named explicitly. Those left None are found by alias."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Aliases that replace those in roles.py, by role. Width and height have none, because `roles`
    names them as a pair. The role `captions` takes every column of a file whose name is among its
    aliases."""
    needs: tuple[str, ...] = ("caption", "url")
    """Roles that a file must have. A file with images (bytes, paths, tar members) does not need
    `url`."""
    caption_list: CaptionList = "first"
    """Treatment of lists of texts in the column of the role `caption`: take the first text, or
    refuse the file."""
    swap_size: bool = False
    """Whether the columns named width and height hold each other's values (LAION)."""
    images_root: str | None = None
    """Folder (path or URL) that image paths are relative to. Images are read only from below this
    folder and the manifest's folder. Without `images_root`, they are read only from below the
    manifest's folder."""
    notes: str = ""
    """Remarks for users of the data."""

    def __post_init__(self) -> None:
        _one_of("caption_list", self.caption_list, CAPTION_LISTS, self.name)
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise DatasetError(
                f"{self.name}: delimiter {self.delimiter!r} must be one character, and no quote or"
                " line end"
            )
        if self.header and self.columns:
            raise DatasetError(
                f"{self.name}: columns {list(self.columns)} are for files without header; add"
                " header=false, or drop it"
            )
        if not self.header and not self.columns:
            raise DatasetError(
                f"{self.name}: header is false, so name the columns in order, as in columns=[url,"
                " caption]"
            )
        repeated = sorted({column for column in self.columns if self.columns.count(column) > 1})
        if repeated:
            raise DatasetError(
                f"{self.name}: columns names {', '.join(repeated)} more than once; every column"
                " needs its own name"
            )
        for role in (*self.aliases, *self.needs):
            _one_of("role", role, ROLE_NAMES, self.name)
        if {"width", "height"} & {*self.aliases}:
            raise DatasetError(
                f"{self.name}: aliases has width or height, which are found as a pair; name both"
                " columns, as in roles: {width: W, height: H}"
            )
        if self.roles.captions and self.roles.caption is not None:
            raise DatasetError(
                f"{self.name}: columns are named for the role caption and for captions; name one"
                " column (--caption-column), or all columns (--caption-columns)"
            )
        if (self.roles.width is None) != (self.roles.height is None):
            raise DatasetError(
                f"{self.name}: roles width and height go together; give both or neither"
            )

    @property
    def several_captions(self) -> bool:
        """True if a row may have several captions."""
        return bool(
            self.roles.captions or (self.roles.caption is None and self.aliases.get("captions"))
        )

    def aliases_of(self, role: str) -> tuple[str, ...]:
        """Return the column names to try for a role.

        Args:
            role: a field of `Roles`.

        Returns:
            The names, best first: those of the data set, otherwise the built-in ones.
        """
        return self.aliases.get(role, ALIASES.get(role, ()))

    def with_roles(self, **given: Any) -> Dataset:
        """Return a copy with the user's own settings. None leaves a setting unchanged.

        Args:
            **given: columns by role, such as `caption`, and the fields named in `READ_AS`.

        Returns:
            The changed description.

        Raises:
            DatasetError: a role is unknown, or the copy is refused, see `Dataset`.
        """
        for role in given.keys() - {*READ_AS}:
            _one_of("role", role, ROLE_NAMES, self.name)
        changed = {name: value for name, value in given.items() if value is not None}
        if "columns" in changed:
            changed = {"header": False, **changed, "columns": tuple(changed["columns"])}
        elif changed.get("header"):
            changed["columns"] = ()
        if "captions" in changed:
            named = changed["captions"]
            changed = {
                "caption": None,
                **changed,
                "captions": (named,) if isinstance(named, str) else tuple(named),
            }
        elif "caption" in changed:
            changed["captions"] = ()
        settings = {name: changed.pop(name) for name in READ_AS if name in changed}
        return replace(self, roles=replace(self.roles, **changed), **settings)


def _one_of(what: str, value: str, known: Sequence[str], where: str) -> None:
    if value not in known:
        raise DatasetError(
            f"{where}: unknown {what} '{value}'{nearest(value, known)}; known: {', '.join(known)}"
        )


def missing_message(dataset: Dataset, looked_in: str, given: str | None = None) -> str:
    """Return the message for a user whose folder `looked_in` has no manifest. `given` is the text
    that the user typed as DATASET if it is not the data set's name, such as the path of a file."""
    typed = given or dataset.name
    lines = [
        f"There is no manifest in {looked_in}: nothing there matches {dataset.default_glob}.",
        "",
        f"  data set  {dataset.title}",
        f"  where     {dataset.where}",
        f"  size      {dataset.size}",
        f"  license   {dataset.license}",
        *([f"  more      {dataset.homepage}"] if dataset.homepage else []),
        *([f"  note      {dataset.notes}"] if dataset.notes else []),
        "",
        f"Put the files into data/{dataset.name}/ and run",
        f"  {spelled('filter', dataset=typed)}",
        "or leave them where they are and run",
        f"  {spelled('filter', dataset=typed, input=f'/path/to/{dataset.default_glob}')}",
    ]
    return "\n".join(lines)


_SHELF = Shelf(Path(__file__).parent, "data set", DatasetError)


def dataset_names() -> list[str]:
    """Return the sorted names of the built-in data sets."""
    return _SHELF.names()


def load_dataset(name_or_path: str) -> Dataset:
    """Return the description of a data set.

    Args:
        name_or_path: one of `dataset_names()`, or the path of a YAML file (ending in .yaml or
            .yml).

    Returns:
        How to read manifests of the data set, and where they are published.

    Raises:
        DatasetError: no such name or file, unreadable YAML, an unknown, repeated or missing key, a
            value of the wrong type, or values that contradict each other.

    Examples:
        >>> from open_diht import load_dataset
        >>> load_dataset("laion400m").name
        'laion400m'
    """
    path = _SHELF.path(name_or_path)
    with _SHELF.explained(path):
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise BadValue("a data set file must map keys to values, as in `name: mine`")
        return build(Dataset, content)
