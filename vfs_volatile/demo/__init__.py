"""The main job, end to end, on a temporary mount: a cache of volatile files.

The process that runs it (``run``) never touches the mount, so it can always clean up. All work is
done by processes of ``worker``, which it starts (``crew``), listens to (``tally``) and ends.
"""
