"""Map columns to roles, and find columns whose types differ between the files of one manifest."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from open_diht.common.naming import listing, nearest
from open_diht.pipelines.datasets import Dataset, Roles
from open_diht.pipelines.datasets.roles import SIZE_FAMILIES, WITH_OPTION
from open_diht.pipelines.manifests.types import BadSchema, Column, FileInfo, Kind

# Roles whose values are read here need fitting types. Rules on the other roles convert the values.
_KINDS: dict[str, tuple[Kind, ...]] = {
    "caption": ("text", "texts", "bytes", "null"),
    "url": ("text", "bytes", "null"),
    "uid": ("text", "integer", "bytes", "null"),
    "image": ("bytes", "image", "null"),
    "image_path": ("text", "null"),
    "sha256": ("text", "null"),
    "md5": ("text", "null"),
}
_NUMBERS = ("similarity", "unsafe", "watermark", "aesthetic", "width", "height")
_DISPENSABLE = ("uid", "sha256", "md5")
"""Roles that ignore a column with one of their aliases if its type does not fit. Without these
roles, a row's id is made from its content, and its download is not compared with a hash."""
MAX_COLUMNS = 10_000
"""Most columns of a file. A file with more is refused, because each of them adds to the cost of a
row."""
COLUMNS = "--columns a,b,... (in Python: with_roles(columns=[...]))"
"""How to name the columns of a file without header, for messages."""
_FOUND_BY_ALIAS = (
    *("url", "caption", "uid", "image", "image_path", "key", "sha256", "md5"),
    *("similarity", "unsafe", "watermark", "aesthetic", "language", "status"),
)


def remedy(role: str) -> str:
    """Return how to name the column of a role, for messages."""
    if role == "captions":
        return "name all of them: --caption-columns A,B,... (in Python: with_roles(captions=[...]))"
    if role not in WITH_OPTION:
        return (
            f"name it in the data set's file: `roles: {{{role}: NAME}}` (in Python:"
            f" with_roles({role}=...))"
        )
    return f"name it: --{role.replace('_', '-')}-column NAME (in Python: with_roles({role}=...))"


def resolve_roles(
    columns: Sequence[Column], dataset: Dataset, path: str, *, images: bool = False
) -> Roles:
    """Return the column of every role.

    A column named by the data set or the user comes first. Otherwise the aliases are tried in
    order. An alias matches in any case, preferring its listed spelling; two equally good matches
    are refused, except for `captions`. A column with an alias of an id or a hash but another type
    is ignored. Width and height come from the first pair of `SIZE_FAMILIES` whose two names each
    occur once in the file. The first text column named image holds paths if no other column does,
    and if it is not named as the column of the URLs. `images` is true for a file with images
    outside its columns (members of a tar).

    Raise BadSchema, with all problems, for repeated names, too many columns, a needed or named role
    without a column, and a role with two columns or one of the wrong type.
    """
    if len(columns) > MAX_COLUMNS:
        raise BadSchema(
            f"{path}: {len(columns)} columns, more than {MAX_COLUMNS}; in JSON Lines and tars, put"
            " keys that vary by row into one field; in TSV and CSV, check that the first line is a"
            " header"
        )
    names = [column.name for column in columns]
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    by_name = {column.name: column for column in columns}
    found: dict[str, str] = {}
    problems: list[BadSchema] = []
    if repeated:
        message = (
            f"column {listing([repr(name) for name in repeated])} occurs more than once; rename one"
            " of them"
        )
        problems.append(BadSchema(f"{path}: {message}"))
        columns = list(by_name.values())
        names = list(by_name)

    def take(role: str, find: Callable[[], str | None]) -> None:
        try:
            if (name := find()) is not None:
                found[role] = name
                _check_kind(role, by_name[name], dataset, path)
        except BadSchema as error:
            problems.append(error)
            found.setdefault(role, "")  # so that no other problem of this role is reported

    for role, name in dataset.roles.given().items():
        take(role, partial(_named, role, name, names, path))
    captions = _captions(names, dataset, path)
    for name in captions:
        found.setdefault("caption", name)
        _check_kind("captions", by_name[name], dataset, path)
    if not dataset.roles.captions and len(captions) == 1 and by_name[captions[0]].kind == "text":
        captions = ()  # the file has only one caption for each row
    for role in _FOUND_BY_ALIAS:
        if role not in found:
            take(role, partial(_by_alias, role, columns, dataset, path))
    others = {name: role for role, name in found.items() if role != "image"}
    if (image := found.get("image")) in others and dataset.roles.image is None:
        del found["image"]  # a column of bytes that is named for another role
    elif image in others and image:
        problems.append(
            BadSchema(
                f"{path}: column '{image}' cannot be both image and {others[image]}; name another"
            )
        )
    if (
        found.get("url")
        and found["url"] == found.get("image_path")
        and dataset.roles.image_path is None
    ):
        del found["image_path"]  # the user says that a column named like paths holds addresses
    for family in SIZE_FAMILIES if "width" not in found else ():
        pair = [[name for name in names if name.casefold() == wanted] for wanted in family]
        if all(len(same) == 1 for same in pair):
            found |= {"width": pair[0][0], "height": pair[1][0]}
            break
    for role in dataset.needs:
        if role in found or (
            role == "url" and (images or "image" in found or "image_path" in found)
        ):
            continue
        aliases = dataset.aliases_of(role)
        guess = next((hint for alias in aliases if (hint := nearest(alias, names))), "")
        problems.append(
            BadSchema(
                f"{path}: no column for the {role}: looked for {', '.join(aliases)}; "
                f"the file has {listing(names)}{guess}; {remedy(role)}"
            )
        )
    if problems:
        raise BadSchema(
            f"{path}: {'. Also, '.join(str(one).removeprefix(f'{path}: ') for one in problems)}"
        )
    return Roles(**found, captions=captions)


def _captions(names: Sequence[str], dataset: Dataset, path: str) -> tuple[str, ...]:
    """Return the columns that hold several captions of a row: those that the data set names, or by
    default those of its aliases that the file has. There are none for a data set with one caption
    per row."""
    if not dataset.several_captions:
        return ()
    if dataset.roles.captions:
        found = [_named("captions", name, names, path) for name in dataset.roles.captions]
    else:
        folded = {name.casefold(): name for name in reversed(names)}
        aliases = dataset.aliases_of("captions")
        found = [alias if alias in names else folded.get(alias.casefold(), "") for alias in aliases]
    return tuple(name for name in dict.fromkeys(found) if name)


def _named(role: str, name: str, names: Sequence[str], path: str) -> str:
    if name in names:
        return name
    same = [candidate for candidate in names if candidate.casefold() == name.casefold()]
    if len(same) != 1:
        raise BadSchema(
            f"{path}: no column '{name}' for the role {role}{nearest(name, names)}; the file has"
            f" {listing(names)}" + (f"; {remedy(role)}" if role == "captions" else "")
        )
    return same[0]


def _by_alias(role: str, columns: Sequence[Column], dataset: Dataset, path: str) -> str | None:
    aliases = dataset.aliases_of(role)
    # A text column named image holds paths: see below.
    kinds = (
        _KINDS[role]
        if role == "image" or (role in _DISPENSABLE and role not in dataset.needs)
        else None
    )
    names = [column.name for column in columns if kinds is None or column.kind in kinds]
    if role == "image_path":
        names = [name for name in names if name not in _texts_named_image(columns)]
    for rank in dict.fromkeys(alias.casefold() for alias in aliases):
        spelled = [name for name in names if name.casefold() == rank]
        best = [name for name in spelled if name in aliases] or spelled
        if len(best) > 1:
            raise BadSchema(
                f"{path}: columns {' and '.join(best)} could both be the {role}; {remedy(role)}"
            )
        if best:
            return best[0]
    images = _texts_named_image(columns) if role == "image_path" else []
    return images[0] if images else None


def _texts_named_image(columns: Sequence[Column]) -> list[str]:
    # Text formats cannot hold bytes, and many of their manifests name the path column "image".
    return [
        column.name
        for column in columns
        if column.name.casefold() == "image" and column.kind == "text"
    ]


def _check_kind(role: str, column: Column, dataset: Dataset, path: str) -> None:
    wanted = _KINDS.get("caption" if role == "captions" else role)
    if role == "caption" and column.kind == "texts" and dataset.caption_list == "refuse":
        raise BadSchema(
            f"{path}: column '{column.name}' holds lists of captions; caption_list: first in the"
            " data set's file (in Python: with_roles(caption_list='first')) takes the first"
        )
    if wanted is not None and column.kind not in wanted:
        raise BadSchema(
            f"{path}: column '{column.name}' is {column.type}, which cannot be the {role};"
            f" {remedy(role)}"
        )


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A column whose type is of another family than in the first file that has the column."""

    path: str
    """The file that differs."""
    column: str
    expected: str
    """The column's type in the first file."""
    found: str
    """The column's type in this file."""
    role: str | None
    """The role of the column in either file. None if it has no role, or if values of both types are
    compared alike."""
    first: str
    """The first file that has the column with a type other than null. The other files are compared
    with it."""

    def __str__(self) -> str:
        role = f" ({self.role})" if self.role else ""
        return (
            f"{self.path}: column '{self.column}'{role} is {self.found}, in {self.first} it is"
            f" {self.expected}"
        )


def check_consistent(infos: Sequence[FileInfo]) -> list[Difference]:
    """Return the columns whose type is of another family than in the first file that has the
    column, in file order. Each of these is one family: int32 and int64; float and double; string,
    large_string and dictionary. Columns of the family null, missing columns and the order of
    columns do not matter. Differences with a `role` affect what is filtered."""
    found = []
    firsts: dict[str, tuple[FileInfo, Column]] = {}
    for info in infos:
        for column in info.columns:
            if column.kind == "null":
                continue
            first, ours = firsts.setdefault(column.name, (info, column))
            if ours.kind == column.kind:
                continue
            roles = {
                name: role for one in (info, first) for role, name in one.roles.given().items()
            }
            role = roles.get(column.name)
            if role in _NUMBERS and {ours.kind, column.kind} == {"integer", "floating"}:
                role = None  # filters compare either as float64
            found.append(
                Difference(
                    path=info.path,
                    column=column.name,
                    expected=ours.type,
                    found=column.type,
                    role=role,
                    first=first.path,
                )
            )
    return found
