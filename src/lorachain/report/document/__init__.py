"""The report of a chain as one document: what it shows, independent of HTML and Markdown."""
