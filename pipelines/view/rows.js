// The page of rows: a button that copies the uids shown to the clipboard.
"use strict";

const button = document.getElementById("copy");
button?.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(button.dataset.uids);
    button.textContent = "copied";
  } catch (error) {
    button.textContent = `not copied: ${error.message}`;
  }
});
document.documentElement.classList.add("scripted");
