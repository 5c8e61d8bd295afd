"""`make view`: a local web page that shows the output of a filter run, finished or not.

It reads the output folder and its input, writes nothing there, and requests no image from its URL.
"""
