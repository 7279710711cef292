"""The page: everything of a study in one HTML file, from the template and the style sheet beside this file.

The template engine (the extra `bench`) escapes every text. The page has no script, and its policy permits none.
"""
