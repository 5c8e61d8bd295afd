"""Image-text similarity by a model that the user names.

`stage` embeds images and captions and stores both, with their similarity; `annotation` is its part in a run, `judge`
what the thresholds of a preset say. Where a preset asks for a share of the rows, or for the score that is corrected by
other rows, passes over all units come between: `rows` (who comes to the rule), `negatives` (the corrected score, with
its formula in `cliploss`), `thresholds` (the score that so many rows reach).
"""
