"""The longest common run of two strings, and the number of edits between two similar strings."""

from __future__ import annotations


def longest_common_run(string: str, caption: str) -> tuple[int, int, int]:
    """Return the longest common substring as (length, start in `string`, start in `caption`); the
    first one if several.

    The search uses `in`, so that the inner loop runs in C and needs no table of characters.
    """
    length = start = 0
    for left in range(len(string)):
        if left + length >= len(string):  # no longer run can start here
            break
        while left + length < len(string) and string[left : left + length + 1] in caption:
            length += 1
            start = left
    return length, start, caption.find(string[start : start + length])


def within_edits(left: str, right: str, most: int) -> int | None:
    """Return the number of inserted, deleted or changed characters between two strings; None if it is more than
    `most`."""
    if abs(len(left) - len(right)) > most:
        return None
    start = 0
    while start < len(left) and start < len(right) and left[start] == right[start]:
        start += 1
    left, right = left[start:], right[start:]
    while left and right and left[-1] == right[-1]:
        left, right = left[:-1], right[:-1]
    if not left or not right:
        return max(len(left), len(right))
    if most == 0:
        return None
    if most == 1:
        return 1 if len(left) == len(right) == 1 else None
    row = list(range(len(right) + 1))
    for index, char in enumerate(left, 1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(right, 1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (char != other))
        if min(row) > most:  # further rows cannot be smaller
            return None
    return row[-1] if row[-1] <= most else None
