// The reference follows the system's theme, which the component does not do by itself.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const reference = document.querySelector("rapi-doc");

function follow() {
  reference.setAttribute("theme", dark.matches ? "dark" : "light");
  reference.setAttribute("primary-color", dark.matches ? "#f59063" : "#b5461a");
}

dark.addEventListener("change", follow);
follow();
