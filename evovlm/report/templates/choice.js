"use strict";
const form = document.querySelector(".rating");
document.addEventListener("keydown", (event) => {
  if (!form || event.repeat || event.altKey || event.ctrlKey || event.metaKey) {
    return;
  }
  const box = /^[1-9]$/.test(event.key) && form.elements[`answer${event.key - 1}`];
  if (box) {
    box.checked = !box.checked;
  } else if (event.key === "Enter") {
    event.preventDefault();
    form.requestSubmit();
  }
});
