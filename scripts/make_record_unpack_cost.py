"""Makes data/records/unpack_cost.json: machine instructions that a GPU needs to unpack a weight of 1 to 8 bits.

Two ways of storing codes become numbers that a tensor core multiplies, fp16, bf16 or int8: the dense stream of
`qlab.bits`, unpacked the plain way, and the planes of `kernels/triton/unpack.py`, by the very code of the GPU kernels
(to int8 they unpack 4 and 8 bits). What a kernel for three blocks has more than one for a single block are two blocks'
worth: addresses and the kernel's ends fall out. Compiled and taken apart by Triton's own tools, without a GPU.

python scripts/make_record_unpack_cost.py     six minutes; needs Triton (`pip install 'qlab[gpu]'`)
"""

from __future__ import annotations

from importlib.metadata import version

from qlab.kernels.triton.unpack_only import KERNELS, per_weight, widths

from qlab.records import provenance, save_record

NAME = "unpack_cost"
CAPABILITIES = (80, 90)
CELLS = [(*key, capability) for capability in CAPABILITIES for key in KERNELS]


def main() -> None:
    """Compile everything and write the record."""
    rows = []
    for storage, target, capability in CELLS:
        for bits in widths(storage, target):
            found = per_weight(storage, bits, target, capability)
            rows.append({"storage": storage, "bits": bits, "target": target, "sm": capability} | found)
            print(rows[-1], flush=True)
    made = provenance("python scripts/make_record_unpack_cost.py")
    made["versions"]["triton"] = version("triton")
    about = "machine instructions for each weight, loads and stores left out; floats and conversions are part of them"
    save_record(NAME, {"made": made, "about": about, "rows": rows})


if __name__ == "__main__":
    main()
