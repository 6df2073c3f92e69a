"""Answer clips over HTTP with an exported ensemble, and show a page to try it.

    python -m liveness.serve --exported DIR            then open http://127.0.0.1:8000/

Reads   DIR, which ``python -m liveness.export`` wrote; needs neither torch nor the rest of liveness[train].
Writes  nothing but temporary files, in a folder of its own that ends with it.

POST /score takes a clip or an image and answers with its row as JSON; /docs lists the rest (docs/service.md). With
the environment variable LIVENESS_TOKEN callers need that token; without it only this machine may call.

Exit code 0 after SIGTERM or ctrl-C, when what was accepted is answered.
"""
