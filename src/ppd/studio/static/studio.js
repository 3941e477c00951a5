// Keys, focus, and a vote that is sent again when the studio does not answer. Without it every page still works.
"use strict";

const notice = document.getElementById("notice");
const TRIES = 20, PAUSE_MS = 1500;
const tries = new WeakMap();

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input, select, textarea")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const button = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (!button || button.disabled) return;
  event.preventDefault();
  button.click();
});

document.addEventListener("input", (event) => {
  const shown = document.getElementById(event.target.dataset.shown);
  if (shown) shown.value = Number(event.target.value).toString();
});

// The chosen picture is marked while the answer is on its way.
document.addEventListener("htmx:beforeRequest", (event) => {
  const submitter = event.detail.requestConfig.triggeringEvent?.submitter;
  if (submitter?.classList.contains("picture")) submitter.classList.add("taken");
});

// A new page begins at its heading, for keyboards and screen readers; what is polled leaves the focus where it is.
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id !== "main") return;
  event.detail.target.querySelector("[data-focus]")?.focus({ preventScroll: true });
});

// The studio may be restarting: an answer counts once however often it is sent, so it is sent until it arrives.
document.addEventListener("htmx:sendError", (event) => {
  const form = event.detail.elt;
  const n = (tries.get(form) ?? 0) + 1;
  tries.set(form, n);
  const again = n < TRIES && (form.hasAttribute("data-answer") || form.hasAttribute("hx-trigger"));
  say(again ? "The studio does not answer. Your last answer is kept here and sent again …"
            : "The studio does not answer. Is it still running? Please try again.");
  if (!again) return;
  const choice = event.detail.requestConfig.triggeringEvent?.submitter?.value;
  setTimeout(() => {
    if (!document.contains(form)) return;
    const button = choice && form.querySelector(`[value="${CSS.escape(choice)}"]`);
    if (button) { button.disabled = false; button.click(); } else { htmx.trigger(form, "again"); }
  }, PAUSE_MS);
});
document.addEventListener("htmx:afterOnLoad", (event) => tries.delete(event.detail.elt));

function say(sentence) {
  const said = document.createElement("p");
  said.className = "said";
  said.textContent = sentence;
  notice.replaceChildren(said);
}

// Large pictures are smoothed; small ones keep their pixels.
document.addEventListener("load", (event) => {
  if (event.target.tagName === "IMG" && event.target.naturalWidth > 128) event.target.dataset.large = "";
}, true);
