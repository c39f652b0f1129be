"""The former name of `relay.preflight`.

A relay that was upgraded on disk and is then reloaded still runs the earlier code. That code starts
this module to try relay.yaml with the new release.
"""

from relay.preflight import main

if __name__ == "__main__":
    main()
