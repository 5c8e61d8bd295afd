"""Image-text similarity by a model that the user names.

`stage` embeds images and captions and stores both, with their similarity; `stored` reads them and
applies thresholds. If a preset asks for a fraction of the rows, or for the score corrected by other
rows, passes over all units follow: `passes` has them, and `cliploss` has the formula of the
corrected score.
"""
