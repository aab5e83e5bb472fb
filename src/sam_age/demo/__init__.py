"""The web page, `sam-demo`: one face, any age, in a browser. Needs the extra [demo], Gradio.

    studio.py    what the page does, without a page: opens uploads, keeps a visitor's codes, draws
    view.py      pictures and readings as HTML
    page.py      the page: what stands where, and what happens when it is touched
    serve.py     limits, private temporary files, no connections but to this machine
    style.css    how it looks

What a visitor sends is a file's content and numbers: never a path, never a checkpoint. Results go to the browser
within the page and are written nowhere.
"""
