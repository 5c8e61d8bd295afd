"""`make view`: a local web page that shows the output of a filter run, finished or not.

It reads the committed results and stored images, writes nothing, and requests no image from its URL.
"""
