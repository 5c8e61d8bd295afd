"""Which column plays which role, and when nobody should guess."""

from typing import Any

import pyarrow as pa
import pytest

from open_diht.pipelines.datasets import Roles, load_dataset
from open_diht.pipelines.manifests import BadSchema
from open_diht.pipelines.manifests.arrow import column_of
from open_diht.pipelines.manifests.schema import resolve_roles

S = pa.string()
N = pa.int64()
F = pa.float32()
B = pa.binary()


def roles_of(columns: dict[str, pa.DataType], name: str = "custom", **named: Any) -> Roles:
    found = [column_of(column, type) for column, type in columns.items()]
    return resolve_roles(found, load_dataset(name).with_roles(**named), "x.parquet")


def test_aliases_match_in_any_case() -> None:
    roles = roles_of({"Url": S, "Text": S, "Similarity": F, "PUNSAFE": F}, "laion2b")
    assert (roles.url, roles.caption, roles.similarity, roles.unsafe) == (
        "Url",
        "Text",
        "Similarity",
        "PUNSAFE",
    )


@pytest.mark.parametrize(
    ("columns", "caption"),
    [
        *[
            (["title", "text"], "text"),
            (["title", "caption"], "caption"),
            (["alt_text", "title"], "title"),
        ],
        *[(["text", "caption"], "caption"), (["Caption", "caption"], "caption")],
    ],
)
def test_the_first_alias_wins_and_its_own_spelling_before_others(
    columns: list[str], caption: str
) -> None:
    assert roles_of(dict.fromkeys(columns, S)).caption == caption


def test_equal_candidates_are_refused() -> None:
    with pytest.raises(
        BadSchema,
        match=r"columns TEXT and text could both be the caption; name it: --caption-column",
    ):
        roles_of({"TEXT": S, "text": S, "URL": S}, "laion2b")
    with pytest.raises(BadSchema, match="columns Url and uRL could both be the url"):
        roles_of({"text": S, "Url": S, "uRL": S}, "laion2b")
    assert roles_of({"TEXT": S, "text": S, "URL": S}, "laion2b", caption="text").caption == "text"


def test_a_role_without_an_option_is_named_in_the_data_sets_file() -> None:
    with pytest.raises(
        BadSchema, match=r"the md5; name it in the data set's file: `roles: {md5: NAME}`"
    ):
        roles_of({"text": S, "md5": N}, md5="md5")


def test_a_named_column_must_exist() -> None:
    assert roles_of({"Alt": S}, caption="alt").caption == "Alt"
    with pytest.raises(
        BadSchema, match=r"no column 'captoin' for the role caption \(did you mean 'caption'\?\)"
    ):
        roles_of({"caption": S}, caption="captoin")


def test_a_needed_column_is_missed_with_the_nearest_name() -> None:
    with pytest.raises(
        BadSchema,
        match=(
            r"no column for the caption: .*the file has url, captoin \(did you mean 'captoin'\?\)"
        ),
    ):
        roles_of({"url": S, "captoin": S})
    with pytest.raises(BadSchema, match="no column for the url"):
        roles_of({"TEXT": S}, "laion2b")
    with pytest.raises(BadSchema, match="no column for the uid"):
        roles_of({"text": S, "url": S}, "datacomp")


def test_a_column_that_is_no_id_and_no_hash_is_left_alone_unless_it_was_named() -> None:
    columns = {"text": S, "url": S, "id": F, "sha256": pa.binary(32), "md5": N}
    roles = roles_of(columns)
    assert (roles.uid, roles.sha256, roles.md5) == (None, None, None)
    assert roles_of({**columns, "uid": S}).uid == "uid"
    with pytest.raises(BadSchema, match="column 'id' is float, which cannot be the uid"):
        roles_of(columns, uid="id")
    with pytest.raises(BadSchema, match="column 'uid' is float, which cannot be the uid"):
        roles_of({"text": S, "url": S, "uid": F}, "datacomp")  # which cannot do without


def test_images_stand_in_for_the_url() -> None:
    assert roles_of({"text": S, "image": B}, "laion2b").image == "image"


@pytest.mark.parametrize(
    "type", [N, F, pa.bool_(), pa.list_(N), pa.struct({"a": S}), pa.timestamp("s")]
)
def test_what_cannot_be_a_caption(type: pa.DataType) -> None:
    with pytest.raises(BadSchema, match=r"column 'caption' is .*, which cannot be the caption"):
        roles_of({"caption": type, "url": S})


@pytest.mark.parametrize(
    "type",
    [
        S,
        pa.large_string(),
        pa.string_view(),
        B,
        pa.list_(S),
        pa.dictionary(pa.int8(), S),
        pa.null(),
    ],
)
def test_what_can_be_a_caption(type: pa.DataType) -> None:
    assert roles_of({"caption": type, "url": S}).caption == "caption"


def test_lists_of_captions_can_be_refused() -> None:
    columns = [column_of("caption", pa.list_(S))]
    with pytest.raises(BadSchema, match="holds lists of captions"):
        resolve_roles(columns, load_dataset("custom").with_roles(caption_list="refuse"), "x")


def test_an_image_column_of_texts_holds_paths() -> None:
    roles = roles_of({"caption": S, "image": S})
    assert (roles.image, roles.image_path) == (None, "image")
    roles = roles_of({"caption": S, "image": S, "image_path": S})
    assert (roles.image, roles.image_path) == (None, "image_path")


def test_ids_identify_only_where_the_user_says_custom() -> None:
    assert roles_of({"id": N, "url": S, "text": S}, "coyo700m").uid is None
    assert roles_of({"id": N, "url": S, "text": S}).uid == "id"
    assert roles_of({"id": N, "key": S, "text": S}).uid == "key"
