"""Sphinx configuration: Jupyter Book's engine (myst-nb, sphinx-book-theme), strict and offline."""

# The public address of the repository. Set it, and the repository and launch buttons appear.
REPOSITORY = ""

project = "qlab"
author = "the qlab authors"
copyright = f"2026, {author}"

extensions = ["sphinx_external_toc", "myst_nb", "sphinxcontrib.bibtex"]
external_toc_path = "_toc.yml"
exclude_patterns = ["_build", "node_modules", "**/.ipynb_checkpoints"]

# The committed, nbval-verified outputs are what a reader sees: nothing is executed here.
nb_execution_mode = "off"
nb_output_stderr = "remove"
nb_merge_streams = True
nb_number_source_lines = False

myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "deflist", "dollarmath", "html_admonition"]
myst_heading_anchors = 3
myst_update_mathjax = False
numfig = True
math_number_all = False
math_eqref_format = "({number})"
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "alpha"

html_theme = "sphinx_book_theme"
html_title = "qlab"
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["qlab.css"]
html_last_updated_fmt = None
html_show_sourcelink = True
pygments_style = "friendly"
html_context = {"default_mode": "auto"}  # the reader's system decides, until the reader does
html_theme_options = {
    "logo": {"text": "qlab", "alt_text": "qlab: the staircase of a 3-bit grid"},
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search field stands in the sidebar already
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
    "use_download_button": True,
    "repository_url": REPOSITORY,
    "use_repository_button": bool(REPOSITORY),
    "path_to_docs": "book",
    "launch_buttons": {"binder_url": "https://mybinder.org"} if REPOSITORY else {},
}

# Offline: MathJax, require.js and the widget manager come from _static/vendor (book/build.py fills it).
html_js_files = [("qlab-book.js", {"priority": 100})]  # before require.js, which reads the paths it sets
mathjax_path = "vendor/mathjax/tex-mml-chtml.js"
mathjax_config_path = "_static/mathjax-config.js"
nb_ipywidgets_js = {
    "vendor/require.js": {},
    "vendor/widgets/@jupyter-widgets/html-manager/dist/embed-amd.js": {},
}
