"""`ottoctl support-bundle`: one archive of what somebody needs who is to help from afar, and no secret.

Parts (`services`, `machine`, `cluster`) gather items; `collecting` gives each its time and keeps what came; `masking` sees everything
before `archive` writes it. What can hold secrets is left out or masked by its place (Secrets, environments, annotations, commands,
requests of pipelines), then every text by its form (credentials in URLs, headers, tokens, keys) and by its content (what was masked
elsewhere).
"""
