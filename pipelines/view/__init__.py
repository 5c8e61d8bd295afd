"""`make view`: a local web page that shows the output of a filter run, finished or not.

The page's server reads the output folder and the run's input, writes nothing there, and requests no
image from its URL.
"""
