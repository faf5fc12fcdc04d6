// The module worker of the plugin. The offline page starts its own script as a worker.
import {serveDecoding} from "./decode.js";

if (typeof document === "undefined") serveDecoding(self);
