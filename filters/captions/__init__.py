"""What a caption says, from one parse: Complexity and Action, the C and the A of the CAT filters.

`normalise` prepares the text, `parse` parses it, `graph` turns the parse into objects, attributes, actions and
relations, `verifier` says how likely each of them is stated rather than named, `rules` counts and decides.
"""
