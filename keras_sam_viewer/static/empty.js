// What is shown when nothing was logged so far.
import {build} from "./dom.js";

const SNIPPET = `from keras_sam.callbacks import AttentionTensorBoard
watch = AttentionTensorBoard("logs", x_train[:2])
model.fit(x_train, y_train, callbacks=[watch])`;

export function makeEmpty() {
  return build("section", {class: "ks-card ks-empty", role: "status"},
    build("h2", {}, "No attention was logged here so far"),
    build("p", {}, "Log it while a model trains, with keras_sam's layers or with keras.layers.MultiHeadAttention:"),
    build("pre", {}, build("code", {}, SNIPPET)),
    build("p", {}, "This page shows it as soon as the first step is written."));
}
