// The page of thresholds: a slider and its number are one, and what would be kept follows them. The server decides and
// writes the HTML, in which every text is escaped.
"use strict";

const form = document.getElementById("controls");
const shown = document.getElementById("kept");
let busy = false;
let again = false;
let waiting;

function address(path) {
  return `${path}?${new URLSearchParams(new FormData(form))}`;
}

// One question at a time: what is moved meanwhile is asked when the answer is there.
async function follow() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  shown.setAttribute("aria-busy", "true");
  do {
    again = false;
    try {
      await show();
    } catch (error) {
      shown.textContent = `Not shown: ${error.message}. Does the server still run?`;
    }
  } while (again);
  shown.removeAttribute("aria-busy");
  busy = false;
}

async function show() {
  const answer = await fetch(address(form.dataset.kept));
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  const text = await answer.text();
  const open = shown.querySelector("details.preset")?.open;
  shown.innerHTML = text;
  if (open) shown.querySelector("details.preset").open = true;
  history.replaceState(null, "", address(form.getAttribute("action")));
}

form.addEventListener("input", (event) => {
  const moved = event.target;
  if (moved.dataset.for) document.getElementById(moved.dataset.for).value = moved.value;
  const slider = form.querySelector(`[data-for="${CSS.escape(moved.id)}"]`);
  if (slider) slider.value = moved.value;
  clearTimeout(waiting);
  waiting = setTimeout(follow, 120);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  follow();
});
form.reset(); // what was moved before this ran, or a browser remembers of an earlier visit, is not what is shown
document.documentElement.classList.add("scripted");
