"""Registries that plugins add to."""

import pytest

from open_diht.common.plugins import Registry


class One:
    pass


class Two:
    pass


def _reloaded() -> type:
    return type("One", (), {"__module__": One.__module__, "__qualname__": "One"})


def test_a_name_belongs_to_one_class() -> None:
    registry = Registry[type]("{name!r} of {new} is a {old}")
    registry.add("a", One)
    with pytest.raises(ValueError, match=r"^'a' of Two is a One$"):
        registry.add("a", Two)
    assert registry == {"a": One}


def test_a_reloaded_module_replaces_its_class_and_its_instances() -> None:
    again = _reloaded()
    classes = Registry[type]("taken")
    classes.add("a", One)
    classes.add("a", again)
    instances = Registry[object]("{new}, {old}")
    instances.add("a", One())
    last = again()
    instances.add("a", last)
    assert classes["a"] is again and instances["a"] is last
    with pytest.raises(ValueError, match=r"^Two, One$"):
        instances.add("a", Two())
