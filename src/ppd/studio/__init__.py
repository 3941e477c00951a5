"""A local web application in which visitors choose pictures, see their own and judge them blind."""
