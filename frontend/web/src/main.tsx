import './browser';
import { render } from 'preact';
import './style.css';
import { App } from './ui/app';
import { Boundary } from './ui/boundary';

const root = document.getElementById('app');
if (root) {
  root.textContent = '';
  render(
    <Boundary instead={() => <Broken />}>
      <App />
    </Boundary>,
    root,
  );
}

function Broken() {
  return (
    <main class="sign-in">
      <div class="card" role="alert">
        <h1>Something is broken</h1>
        <p>This page has a fault, or this browser lacks something that it needs. Nothing that you have sent is lost.</p>
        <button type="button" class="main" onClick={() => location.reload()}>
          Load it again
        </button>
      </div>
    </main>
  );
}
