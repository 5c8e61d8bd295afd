// The page of thresholds: a slider and its number are one, and what would be kept follows them. The server decides and
// writes the HTML, in which every text is escaped.
"use strict";

const form = document.getElementById("controls");
const shown = document.getElementById("kept");
let asked = 0;
let waiting;

function address(path) {
  return `${path}?${new URLSearchParams(new FormData(form))}`;
}

async function follow() {
  const mine = ++asked;
  shown.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(address(form.dataset.kept));
    const text = await answer.text();
    if (mine !== asked) return; // a later one is under way
    const open = shown.querySelector("details.preset")?.open;
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    shown.innerHTML = text;
    if (open) shown.querySelector("details.preset").open = true;
    history.replaceState(null, "", address(form.getAttribute("action")));
  } catch (error) {
    if (mine === asked) shown.textContent = `Not shown: ${error.message}. Does the server still run?`;
  }
  if (mine === asked) shown.removeAttribute("aria-busy");
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
document.documentElement.classList.add("scripted");
