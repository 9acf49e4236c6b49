"""A container's health check: status 0 when this process says on /healthz that it is well."""

import os
import sys
import urllib.request

port = os.environ.get("ECDCTR_MONITORING__PORT", "9400")
try:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=3) as answer:
        print(answer.read().decode().strip())
except OSError as error:
    sys.exit(f"not healthy: {error}")
