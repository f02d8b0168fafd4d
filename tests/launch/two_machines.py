"""A Ray cluster of two machines on this one: prints its address; loses the second machine at a line on standard input,
and ends with its input. `two_machines.py N`: the second is said to have N GPUs."""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    machine = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **machine})
    second = cluster.add_node(num_gpus=int(sys.argv[1]) if sys.argv[1:] else 0, **machine)
    print(f"address {cluster.address}", flush=True)
    try:
        for _ in sys.stdin:
            cluster.remove_node(second, allow_graceful=False)
            print("gone", flush=True)
    finally:
        cluster.shutdown()
