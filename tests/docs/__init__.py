"""Of the README and the site's pages: links, commands, numbers, names and code."""
