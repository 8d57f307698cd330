"""Figures: each function is one call that returns a plotly figure in the shared theme."""

from qlab.plots.awq import alpha_curves
from qlab.plots.batch import batch_roofline, gain_over_batch, weight_instructions
from qlab.plots.evaluation import compare_bars, paired_errors, perplexity_protocols, rate_distortion
from qlab.plots.gguf import bit_costs
from qlab.plots.gptq import calibration_curves
from qlab.plots.gpu import gpu_bandwidth, gpu_ratios
from qlab.plots.hessian import by_block, spectrum
from qlab.plots.kernels import instruction_bars, roofline, tile_layout
from qlab.plots.kquants import decode_speed, kl_changes, search_steps
from qlab.plots.memory import memory_stack
from qlab.plots.packing import by_bits
from qlab.plots.position import loss_by_position
from qlab.plots.theme import figure, finish, rounded
from qlab.plots.weights import heatmap, histogram, outlier_map, staircase

__all__ = [
    "alpha_curves",
    "batch_roofline",
    "bit_costs",
    "by_bits",
    "by_block",
    "calibration_curves",
    "compare_bars",
    "decode_speed",
    "figure",
    "finish",
    "gpu_bandwidth",
    "gpu_ratios",
    "gain_over_batch",
    "heatmap",
    "histogram",
    "instruction_bars",
    "kl_changes",
    "loss_by_position",
    "memory_stack",
    "outlier_map",
    "paired_errors",
    "perplexity_protocols",
    "rate_distortion",
    "roofline",
    "rounded",
    "search_steps",
    "spectrum",
    "staircase",
    "tile_layout",
    "weight_instructions",
]
