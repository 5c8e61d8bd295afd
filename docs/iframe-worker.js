// Search runs in a worker. There a word with a leading dash means "without it", but options are written with dashes, so
// these are taken off before a query (a message of type 2) is sent: `--ocr-effort` finds what `ocr-effort` finds.
const undashed = (message) =>
  message?.type === 2 && typeof message.data === "string"
    ? { ...message, data: message.data.replace(/(^|\s)-+(?=\S)/g, "$1") }
    : message;

if (location.protocol === "file:") {
  // Browsers start no worker from a page that was opened as a file. An iframe takes its place.
  window.Worker = class extends EventTarget {
    constructor(script) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      this.inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const element = frame.contentDocument.createElement("script");
      element.src = script;
      this.loaded = new Promise((resolve) => element.addEventListener("load", resolve));
      frame.contentDocument.head.append(element);
    }
    postMessage(message) {
      const data = undashed(message);
      this.loaded.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
} else {
  const send = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (message, ...rest) {
    send.call(this, undashed(message), ...rest);
  };
}
