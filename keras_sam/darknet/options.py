"""Reading a section's options the way Darknet does, but refusing what it mangles.

Numbers parse by prefix (`180### P6` is 180), text must be exact, and of a repeated key
the first value counts. Darknet reads a value that is no number at all as zero; here
that is an error. No Keras here.
"""

import math
import re

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
MAX_ITEMS = 256

# Read by Darknet's training and drawing only: they never change what a layer computes.
_EVERYWHERE = """clip onlyforward dont_update burnin_update stopbackward train_only_bn
    learning_rate"""
_TRAINING = {
    "net": """B1 B2 adam adversarial_lr angle aspect attention augment_speed
        badlabels_rejection_percentage batch batches_per_cycle blur burn_in contrastive
        contrastive_color contrastive_jit_flip cutmix decay dynamic_minibatch ema_alpha
        eps equidistant_point exposure flip gamma gaussian_noise hue inputs
        label_smooth_eps learning_rate_min loss_scale max_batches
        max_chart_loss max_crop min_crop mixup momentum mosaic mosaic_bound
        num_sigmas_reject_badlabels optimized_memory policy power resize_step saturation
        scale scales seq_scales sequential_subdivisions sgdr_cycle sgdr_mult
        show_receptive_field step steps subdivisions time_steps track try_fix_nan
        unsupervised use_cuda_graph weights_reject_freq workspace_size_limit_MB""",
    "convolutional": """angle assisted_excitation bin_output dot grad_centr reverse
        stream wait_stream""",
    "contrastive": """classes cls_normalizer contrastive_neg_max max_delta steps
        temperature yolo_layer""",
    "cost": "masked_scale noobj ratio scale thresh type",
    "crop": "angle exposure flip saturation shift",
    "detection": """class_scale coord_scale forced jitter max noobject_scale object_scale
        random reorg rescore resize""",
    "region": """absolute bias_match class_scale coord_scale focal_loss ignore_thresh
        jitter log mask_scale max noobject_scale object_scale random rescore resize sqrt
        thresh truth_thresh""",
    "softmax": "noloss",
    "route": "stream wait_stream",
    "dropout": "dropblock dropblock_size_abs dropblock_size_rel",
    "yolo": """cls_normalizer counters_per_class delta_normalizer
        dets_for_show dets_for_track embedding_layer focal_loss ignore_thresh iou_loss
        iou_normalizer iou_thresh iou_thresh_kind jitter label_smooth_eps map max
        max_delta obj_normalizer objectness_smooth random resize show_details
        sim_thresh track_ciou_norm track_history_size truth_thresh""",
}
_TRAINING["Gaussian_yolo"] = f"{_TRAINING['yolo']} uc_normalizer"


class OptionReader:
    """Reads typed options of one section, and knows which ones nobody asked for."""

    def __init__(self, section):
        self.section = section
        self.notices = []
        self._options = {}
        for option in section.options:
            first = self._options.setdefault(option.key, option)
            if first is not option and first.value != option.value:
                self.notices.append(
                    f"line {option.line}: [{section.name}] repeats "
                    f"`{option.key[:40]}`; the value of line {first.line} counts"
                )
        self._read = {*_EVERYWHERE.split(), *_TRAINING.get(section.name, "").split()}

    def text(self, key, default=None, choices=None):
        """Returns the value as it stands; with `choices` it must be one of them."""
        value = self._value(key)
        if value is None:
            value = default
        if choices is not None and value not in choices:
            listed = ", ".join(choices)
            raise self.error(key, f"must be one of {listed}", value)
        return value

    def integer(self, key, default, minimum=None):
        """Returns the integer that the value begins with."""
        value = self._value(key)
        if value is None:
            return default
        number = self._to_integer(key, value)
        if minimum is not None and number < minimum:
            raise self.error(key, f"must be at least {minimum}", value)
        return number

    def number(self, key, default):
        """Returns the finite number that the value begins with."""
        value = self._value(key)
        return default if value is None else self._to_number(key, value)

    def required(self, key):
        """Raises unless the option is given."""
        if self._value(key) is None:
            raise self.section.error(f"must be given: {key}=...", key)

    def integers(self, key, until_comment=False, most=MAX_ITEMS):
        """Returns a list of integers, or None when the option is not given.

        Darknet counts commas up to a `#` in [yolo] only. Elsewhere a comma in a
        comment, as one at the end, makes an item that it reads as 0: an error here.
        """
        value = self._value(key)
        if value is None:
            return None
        if until_comment:
            value = value.partition("#")[0]
        return self._list(key, value, self._to_integer, most)

    def numbers(self, key):
        """Returns a list of numbers, which ends at a comment.

        Darknet reads one more 0 after a comma at the end.
        """
        value = self._value(key)
        if value is None:
            return None
        value = value.partition("#")[0]
        if value.endswith(","):
            value += "0"
        return self._list(key, value, self._to_number, 2 * MAX_ITEMS + 1)

    def refuse(self, *keys):
        """Raises when an option is set that changes the mathematics."""
        for key in keys:
            value = self._value(key)
            if value is not None and self._to_number(key, value) != 0:
                raise self.error(
                    key, "changes what the layer computes and is not supported", value
                )

    def refuse_text(self, key, reason):
        """Raises when an option that names a file is given."""
        value = self._value(key)
        if value is not None:
            raise self.error(key, f"{reason} not supported", value)

    def notice(self, key, text):
        """Adds a notice about an option, which need not be given."""
        line = self.section.line
        if key in self._options:
            line = self._options[key].line
        self.notices.append(f"line {line}: [{self.section.name}] `{key}` {text}")

    def mismatch(self, key, message, value=None):
        """Returns the error for sizes that would fit with another input size."""
        error = self.error(key, message, value)
        error.about_sizes = True
        return error

    def error(self, key, message, value=None):
        """Returns the error for an option; shows the value when there is one."""
        received = "" if value is None else f" Received: {key}={value[:80]}"
        return self.section.error(f"{message}.{received}", key)

    def finish(self):
        """Adds a notice for every option that Darknet would not read either."""
        for key, option in self._options.items():
            if key not in self._read:
                self.notices.append(
                    f"line {option.line}: [{self.section.name}] has no option "
                    f"`{key[:40]}`; it is ignored"
                )

    def _value(self, key):
        self._read.add(key)
        option = self._options.get(key)
        if option is None:
            return None
        if option.value is None:
            raise self.section.error(f"has no value; expected {key}=...", key)
        return option.value

    def _list(self, key, value, convert, most):
        items = value.split(",")
        if len(items) > most:
            raise self.error(key, f"must have at most {most} items", value)
        return [convert(key, item) for item in items]

    def _to_integer(self, key, text):
        match = _INTEGER.match(text)
        if match is None:
            raise self.error(key, "must be an integer", text)
        digits = match.group()
        # Python refuses to convert thousands of digits; Darknet's int holds ten.
        if len(digits) > 32 or not -(2**31) <= int(digits) < 2**31:
            raise self.error(key, "must be an integer of 32 bits", text)
        return int(digits)

    def _to_number(self, key, text):
        match = _NUMBER.match(text)
        number = float(match.group()) if match else math.nan
        if not math.isfinite(number):
            raise self.error(key, "must be a finite number", text)
        return number
