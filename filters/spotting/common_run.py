"""The longest common run of two strings, and whether two strings differ by a few letters only."""

from __future__ import annotations


def longest_common_run(string: str, caption: str) -> tuple[int, int, int]:
    """(length, start in `string`, start in `caption`) of the longest common substring; among equals the first one.

    Searches by `in`, so that the inner loop runs in C and not over a table of characters.
    """
    length = start = 0
    for left in range(len(string)):
        if left + length >= len(string):
            break
        while left + length < len(string) and string[left : left + length + 1] in caption:
            length += 1
            start = left
    return length, start, caption.find(string[start : start + length])


def within_edits(left: str, right: str, most: int) -> int | None:
    """The number of inserted, lost or changed letters between two strings if it is at most `most`, else None."""
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
        if min(row) > most:
            return None
    return row[-1] if row[-1] <= most else None
