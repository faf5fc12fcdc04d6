"""What Darknet computes, loop by loop, in float64 NumPy and channels first.

Written against DARKNET.md's rules only, and sharing no code with the importer: it reads
a cfg by itself, and sums over window cells where the importer pads.
"""

import numpy as np

ALIASES = {
    "conv": "convolutional",
    "max": "maxpool",
    "avg": "avgpool",
    "local_avg": "local_avgpool",
    "conn": "connected",
    "soft": "softmax",
    "Gaussian_yolo": "gaussian_yolo",
}


def read_sections(text):
    sections = []
    for line in text.split("\n"):
        line = "".join(line.split())
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            sections.append((line[1:-1], {}))
        else:
            key, value = line.split("=", 1)
            sections[-1][1].setdefault(key, value)
    return sections


def count(size, window, stride, padding):
    return int((size + padding - window) / stride) + 1  # C rounds towards zero


def windows(x, rows, columns, size, strides, before, dilation=1):
    """Yields each window's place and its cells that exist: (i, j), (n, m), cells."""
    _, height, width = x.shape
    for i in range(rows):
        for j in range(columns):
            for n in range(size):
                for m in range(size):
                    row = i * strides[0] + n * dilation - before
                    column = j * strides[1] + m * dilation - before
                    if 0 <= row < height and 0 <= column < width:
                        yield (i, j), (n, m), x[:, row, column]


def activate(name, x):
    sigmoid = 0.5 * (1 + np.tanh(x / 2))
    below = np.exp(np.minimum(x, 0))
    simple = {
        "linear": x,
        "logistic": sigmoid,
        "loggy": 2 * sigmoid - 1,
        "relu": np.maximum(x, 0),
        "relu6": np.minimum(np.maximum(x, 0), 6),
        "elu": np.where(x >= 0, x, below - 1),
        "selu": np.where(x >= 0, 1.0507 * x, 1.0507 * 1.6732 * (below - 1)),
        "gelu": 0.5 * x * (1 + np.tanh(0.797885 * x + 0.035677 * x**3)),
        "relie": np.where(x > 0, x, 0.01 * x),
        "ramp": x * (x > 0) + 0.1 * x,
        "leaky": np.where(x > 0, x, 0.1 * x),
        "revleaky": np.where(x > 0, x, 0.1 * x),
        "tanh": np.tanh(x),
        "hardtan": np.clip(x, -1, 1),
        "mish": x * np.tanh(np.logaddexp(x, 0)),
        "swish": x * sigmoid,
        "hard_mish": np.where(x > 0, x, np.where(x > -2, x * x / 2 + x, 0)),
        "lhtan": np.where(x < 0, 0.001 * x, np.where(x > 1, 0.001 * (x - 1) + 1, x)),
        "plse": np.where(
            x < -4,
            0.01 * (x + 4),
            np.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5),
        ),
        "stair": np.where(
            np.floor(x) % 2 == 0, np.floor(x / 2), x - np.floor(x) + np.floor(x / 2)
        ),
    }
    if name in simple:
        return simple[name]
    if name == "normalize_channels":
        positive = np.maximum(x, 0)
    elif name == "normalize_channels_softmax":
        positive = np.exp(x)
    else:
        positive = np.exp(x - x.max(axis=0))
    return positive / (positive.sum(axis=0) + 1e-4)


class Network:
    """Runs a cfg with weights that it draws; keeps them in the file's order."""

    def __init__(self, text, rng):
        (_, self.net), *self.sections = read_sections(text)
        self.rng = rng
        self.floats = []
        self.parameters = {}
        self.outputs = []

    def input_shape(self):
        return tuple(int(self.net[key]) for key in ("channels", "height", "width"))

    def run(self, x):
        for index, (name, options) in enumerate(self.sections):
            x = getattr(self, ALIASES.get(name, name))(x, options, index)
            self.outputs.append(x)
        return self.outputs

    def draw(self, *shape, positive=False, scale=1.0):
        """Draws an array as the next in the weight file."""
        values = self.rng.normal(0, scale, shape)
        if positive:
            values = self.rng.uniform(0.5, 1.5, shape)
        values = values.astype("float32")
        self.floats.append(values.ravel())
        return values.astype("float64")

    def weights(self):
        return np.concatenate([np.zeros(0, "float32"), *self.floats])

    def at(self, text, index):
        number = int(text.split(",")[0])
        return self.outputs[index + number if number < 0 else number]

    def convolutional(self, x, options, index):
        def integer(key, default):
            return int(options.get(key, default))

        filters, size = integer("filters", 1), integer("size", 1)
        strides = [integer(key, integer("stride", 1)) for key in ("stride_y", "stride_x")]
        dilation = 1 if size == 1 else integer("dilation", 1)
        side = size // 2 if integer("pad", 0) else integer("padding", 0)
        groups = integer("groups", 1)
        channels, height, width = x.shape
        normalize = integer("batch_normalize", 0)
        if "share_index" in options:
            number = integer("share_index", 0)
            parameters = self.parameters[index + number if number < 0 else number]
        else:
            parameters = {"biases": self.draw(filters)}
            if normalize:
                parameters["scales"] = self.draw(filters)
                parameters["mean"] = self.draw(filters)
                parameters["variance"] = self.draw(filters, positive=True)
            parameters["weights"] = self.draw(filters, channels // groups, size, size)
        self.parameters[index] = parameters
        rows = count(height, size, strides[0], 2 * side)
        columns = count(width, size, strides[1], 2 * side)
        y = np.zeros((filters, rows, columns))
        per_group = filters // groups
        for group in range(groups):
            part = slice(group * per_group, (group + 1) * per_group)
            own = x[group * channels // groups : (group + 1) * channels // groups]
            kernel = parameters["weights"][part]
            for (i, j), (n, m), cells in windows(
                own, rows, columns, size, strides, side * dilation, dilation
            ):
                y[part, i, j] += kernel[:, :, n, m] @ cells
        if normalize:
            deviation = np.sqrt(parameters["variance"] + 1e-5)
            y = (y - parameters["mean"][:, None, None]) / deviation[:, None, None]
            y = y * parameters["scales"][:, None, None]
        y = y + parameters["biases"][:, None, None]
        return activate(options.get("activation", "logistic"), y)

    def connected(self, x, options, index):
        outputs = int(options.get("output", 1))
        vector = x.reshape(-1)  # channels, rows, columns
        scale = len(vector) ** -0.5
        biases, matrix = self.draw(outputs), self.draw(outputs, len(vector), scale=scale)
        y = np.array([sum(row * vector) for row in matrix])
        if int(options.get("batch_normalize", 0)):
            scales, mean = self.draw(outputs), self.draw(outputs)
            variance = self.draw(outputs, positive=True)
            y = (y - mean) / np.sqrt(variance + 1e-5) * scales
        y = (y + biases)[:, None, None]
        return activate(options.get("activation", "logistic"), y)

    def local(self, x, options, index):
        filters, size = int(options.get("filters", 1)), int(options.get("size", 1))
        stride, side = int(options.get("stride", 1)), int(options.get("pad", 0))
        channels, height, width = x.shape
        rows, columns = (
            ((n - 1) if side else (n - size)) // stride + 1 for n in (height, width)
        )
        y = self.draw(filters, rows, columns)  # the biases
        scale = (channels * size**2) ** -0.5
        kernel = self.draw(rows, columns, filters, channels, size, size, scale=scale)
        y = y.copy()
        for (i, j), (n, m), cells in windows(x, rows, columns, size, [stride] * 2, side):
            y[:, i, j] += kernel[i, j, :, :, n, m] @ cells
        return activate(options.get("activation", "logistic"), y)

    def softmax(self, x, options, index):
        groups = int(options.get("groups", 1))
        temperature = float(options.get("temperature", 1))
        parts = np.split(x.reshape(-1) / temperature, groups)
        parts = [np.exp(part - part.max()) for part in parts]
        return np.concatenate([part / part.sum() for part in parts]).reshape(x.shape)

    def cost(self, x, options, index):
        return x

    def contrastive(self, x, options, index):
        return x

    def crop(self, x, options, index):
        height, width = int(options["crop_height"]), int(options["crop_width"])
        y = np.zeros((len(x), height, width))
        for i in range(height):
            for j in range(width):
                row = i + (x.shape[1] - height) // 2
                y[:, i, j] = x[:, row, j + (x.shape[2] - width) // 2]
        return y if int(options.get("noadjust", 0)) else 2 * y - 1

    def reorg(self, x, options, index):
        """Memory is copied number by number, by flat addresses, as C does."""
        s, (channels, height, width) = int(options.get("stride", 1)), x.shape
        flat, y = x.reshape(-1), np.zeros(x.size)
        reverse = int(options.get("reverse", 0))
        few = channels // s**2
        for k in range(channels):
            for j in range(height):
                for i in range(width):
                    here = i + width * (j + height * k)
                    offset = k // few
                    row, column = j * s + offset // s, i * s + offset % s
                    there = column + width * s * (row + height * s * (k % few))
                    if reverse:
                        y[there] = flat[here]
                    else:
                        y[here] = flat[there]
        if reverse:
            return y.reshape(few, height * s, width * s)
        return y.reshape(channels * s**2, height // s, width // s)

    def batchnorm(self, x, options, index):
        bias, scale, mean = (self.draw(len(x))[:, None, None] for _ in range(3))
        variance = self.draw(len(x), positive=True)[:, None, None]
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias

    def activation(self, x, options, index):
        return activate(options.get("activation", "linear"), x)

    def dropout(self, x, options, index):
        return x

    def sam(self, x, options, index):
        product = x * self.at(options["from"], index)
        return activate(options.get("activation", "linear"), product)

    def scale_channels(self, x, options, index):
        product = x * self.at(options["from"], index)
        return activate(options.get("activation", "linear"), product)

    def shortcut(self, x, options, index):
        inputs = [x] + [self.at(text, index) for text in options["from"].split(",")]
        if x.shape[1:] != inputs[1].shape[1:] or {"alpha", "beta"} & options.keys():
            return self._unequal(*inputs, options)
        kind = options.get("weights_type", "none")
        total = np.zeros_like(x)
        if kind == "none":
            mix = np.ones((len(inputs), 1))
        else:
            mix = self.draw(len(inputs), len(x) if kind == "per_channel" else 1)
            if options["weights_normalization"] == "softmax":
                mix = np.exp(mix - mix.max(axis=0))
            else:
                mix = np.maximum(mix, 0)
            mix = mix / (mix.sum(axis=0) + 1e-4)
        for weight, y in zip(mix, inputs, strict=True):
            weight = np.broadcast_to(weight, len(x))
            for channel in range(min(len(x), len(y))):
                total[channel] += weight[channel] * y[channel]
        return activate(options.get("activation", "linear"), total)

    def _unequal(self, x, source, options):
        stride = max(1, source.shape[2] // x.shape[2])
        sample = max(1, x.shape[2] // source.shape[2])
        alpha, beta = float(options.get("alpha", 1)), float(options.get("beta", 1))
        channels, rows, columns = map(min, x.shape, source.shape)
        y = x.copy()
        for k in range(channels):
            for j in range(rows):
                for i in range(columns):
                    y[k, j * sample, i * sample] *= alpha
                    added = beta * source[k, j * stride, i * stride]
                    y[k, j * sample, i * sample] += added
        return activate(options.get("activation", "linear"), y)

    def route(self, x, options, index):
        groups, group_id = (
            int(options.get("groups", 1)),
            int(options.get("group_id", 0)),
        )
        parts = []
        for text in options["layers"].split(","):
            y = self.at(text, index)
            size = len(y) // groups
            parts.append(y[size * group_id : size * (group_id + 1)])
        return np.concatenate(parts)

    def maxpool(self, x, options, index):
        if int(options.get("maxpool_depth", 0)):
            filters = int(options.get("out_channels", 1))
            return np.stack([x[k::filters].max(axis=0) for k in range(filters)])
        return self._pool(x, options, maximum=True)

    def local_avgpool(self, x, options, index):
        return self._pool(x, options, maximum=False)

    def _pool(self, x, options, maximum):
        stride = int(options.get("stride", 1))
        strides = [int(options.get(key, stride)) for key in ("stride_y", "stride_x")]
        size = int(options.get("size", stride))
        padding = int(options.get("padding", size - 1))
        rows = count(x.shape[1], size, strides[0], padding)
        columns = count(x.shape[2], size, strides[1], padding)
        places = {}
        for place, _, cells in windows(x, rows, columns, size, strides, padding // 2):
            places.setdefault(place, []).append(cells)
        y = np.zeros((len(x), rows, columns))
        for (i, j), cells in places.items():
            y[:, i, j] = np.max(cells, axis=0) if maximum else np.mean(cells, axis=0)
        return y

    def avgpool(self, x, options, index):
        return x.mean(axis=(1, 2), keepdims=True)

    def upsample(self, x, options, index):
        stride, scale = int(options.get("stride", 2)), float(options.get("scale", 1))
        if stride > 0:
            return scale * x.repeat(stride, axis=1).repeat(stride, axis=2)
        channels, height, width = x.shape
        y = np.zeros((channels, height // -stride, width // -stride))
        for row in range(height):
            for column in range(width):
                y[:, row // -stride, column // -stride] += scale * x[:, row, column]
        return y

    def reorg3d(self, x, options, index):
        stride = int(options.get("stride", 1))
        channels, height, width = x.shape
        y = np.zeros((channels * stride**2, height // stride, width // stride))
        for k in range(len(y)):
            down, right = divmod(k // channels, stride)
            y[k] = x[k % channels, down::stride, right::stride]
        return y

    def yolo(self, x, options, index):
        classes = int(options.get("classes", 20))
        scale = float(options.get("scale_x_y", 1))
        y = x.copy()
        for start in range(0, len(x), classes + 5):
            if not int(options.get("new_coords", 0)):
                for entry in (0, 1, *range(4, classes + 5)):
                    y[start + entry] = activate("logistic", x[start + entry])
            y[start : start + 2] = y[start : start + 2] * scale - 0.5 * (scale - 1)
        return y

    def gaussian_yolo(self, x, options, index):
        classes, scale = int(options.get("classes", 20)), float(options["scale_x_y"])
        y = x.copy()
        for start in range(0, len(x), classes + 9):
            for entry in (0, 1, 2, 3, 5, 7, *range(8, classes + 9)):
                y[start + entry] = activate("logistic", x[start + entry])
            for entry in (0, 2):
                y[start + entry] = y[start + entry] * scale - 0.5 * (scale - 1)
        return y

    def region(self, x, options, index):
        classes = int(options.get("classes", 20))
        y = x.copy()
        for start in range(0, len(x), classes + 5):
            y[start + 4] = activate("logistic", x[start + 4])
            if int(options.get("softmax", 0)):
                scores = np.exp(x[start + 5 : start + 5 + classes])
                y[start + 5 : start + 5 + classes] = scores / scores.sum(axis=0)
        return y

    def detection(self, x, options, index):
        cells, classes = int(options["side"]) ** 2, int(options["classes"])
        y = x.reshape(-1).copy()
        if int(options.get("softmax", 0)):
            for cell in range(cells):
                part = slice(cell * classes, (cell + 1) * classes)
                y[part] = np.exp(y[part]) / np.exp(y[part]).sum()
        return y[:, None, None]
