"""One module per family of cases; each says with ``@covers("pattern")`` which cases its functions compute."""
