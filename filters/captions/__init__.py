"""Complexity and Action, the C and the A of the CAT filters, from one parse of the caption.

`normalize` prepares the text, `parse` parses it, `graph` turns the parse into objects, attributes,
actions and relations, `verifier` scores how likely each attribute, action and relation is stated
and not just named, and `rules` counts and decides.
"""
