"""Image-text similarity by a model that the user names.

`stage` embeds images and captions and stores both, with their similarity; `stored` reads them and applies thresholds.
If a preset asks for a fraction of the rows, or for the score corrected by other rows, the passes over all units in
`passes` follow, with the formula of the corrected score in `cliploss`.
"""
