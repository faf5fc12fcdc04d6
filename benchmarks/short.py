"""Short sequences: SelfAttention beside its peers, all in one process and in turns.

    python benchmarks/short.py            # five minutes
    python benchmarks/short.py --quick    # to see that it runs

The contenders are those of benchmarks/attention.py: width 512, 8 heads, float32, forward
pass and training step. In one process all share the same warm threads, so that small
differences show. Times are medians in milliseconds.
"""

import argparse

import attention
import turns

LENGTHS, BATCHES = (128, 512), (1, 8, 32)
CONTENDERS = ("ours", "keras", "keras, XLA", "torch")
# At most this many times the time of Keras's better one, and of PyTorch.
TARGETS = {"keras": 1.05, "torch": 1.2}


def measure(length, batch, each, rounds):
    """Returns the medians of all contenders."""
    case = {
        "name": "plain",
        "length": length,
        "batch": batch,
        "width": attention.WIDTH,
        "pass": each,
        "backend": "tensorflow",
        "dtype": "float32",
    }
    runs = {}
    for name in CONTENDERS:
        try:
            runs[name] = attention.make({**case, "contender": name})
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return turns.medians(runs, rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one small case")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(f"{'T':>5}{'batch':>6} {'pass':10}", *(f"{name:>11}" for name in CONTENDERS))
    for length in (16,) if options.quick else LENGTHS:
        for batch in (1,) if options.quick else BATCHES:
            for each in attention.PASSES:
                found = measure(length, batch, each, 3 if options.quick else options.rounds)
                times = (f"{found.get(name, float('nan')):11.2f}" for name in CONTENDERS)
                print(f"{length:5}{batch:6} {each:10}", *times, end="")
                for peer, most in TARGETS.items():
                    others = [ms for name, ms in found.items() if name.startswith(peer)]
                    if others:
                        ratio = found["ours"] / min(others)
                        verdict = "" if ratio <= most else " NOT MET"
                        print(f"  {ratio:.2f} x {peer}{verdict}", end="")
                print(flush=True)


if __name__ == "__main__":
    main()
