// Forms with `data-into` show their answer in that element, as soon as something in them changes.
// Without this file they are plain forms, and all works too.
for (const form of document.querySelectorAll("form[data-into]")) {
  const into = document.getElementById(form.dataset.into);
  let timer, latest;

  const show = async () => {
    const url = `${form.getAttribute("action")}?${new URLSearchParams(new FormData(form))}`;
    latest?.abort();
    latest = new AbortController();
    into.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(url, { headers: { "X-Fragment": "list" }, signal: latest.signal });
      if (!answer.ok) throw new Error(answer.statusText);
      into.innerHTML = await answer.text();
      history.replaceState(null, "", url);
    } catch (error) {
      if (error.name === "AbortError") return;
      into.textContent = "The service does not answer; try again in a moment.";
    }
    into.removeAttribute("aria-busy");
  };

  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(show, 250);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    show();
  });
}
