"""Recording in several threads at a time."""

import threading

from keras_sam import record_attention


def recorded_in_threads(calls):
    """Calls each function three times in a thread of its own, all of them at once.

    Args:
        calls: Functions without arguments, by name.

    Returns:
        The paths that each thread recorded, by name, and what this thread recorded.
    """
    recorded, barrier = {}, threading.Barrier(len(calls), timeout=30)

    def work(name):
        with record_attention() as maps:
            barrier.wait()
            for _ in range(3):
                calls[name]()
            barrier.wait()
        recorded[name] = list(maps)

    threads = [threading.Thread(target=work, args=(name,)) for name in calls]
    for thread in threads:
        thread.start()
    with record_attention() as maps:
        for thread in threads:
            thread.join()
    return recorded, maps
