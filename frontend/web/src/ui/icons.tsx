/** Drawn in lines of the text's colour. They say nothing to a screen reader: what holds them does. */
const icon = (path: string) =>
  function Icon() {
    return (
      <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
        <path d={path} />
      </svg>
    );
  };

export const Back = icon('M15 5l-7 7 7 7');
export const Plus = icon('M12 5v14M5 12h14');
export const Send = icon('M5 12h13M12 5.500l6.500 6.500-6.500 6.500');
export const Clip = icon('M20 11.500l-8.200 8.200a5 5 0 0 1-7.100-7.100l8.600-8.600a3.400 3.400 0 0 1 4.800 4.800l-8.600 8.600a1.700 1.700 0 0 1-2.400-2.400l7.900-7.900');
export const Down = icon('M12 5v14M6 13l6 6 6-6');
export const File = icon('M6 3h8l5 5v13H6zM14 3v5h5');
export const SignOut = icon('M14 4H6v16h8M10 12h10M16.500 8.500L20 12l-3.500 3.500');
export const Bubble = icon('M4 7.500A2.500 2.500 0 0 1 6.500 5h11A2.500 2.500 0 0 1 20 7.500v7a2.500 2.500 0 0 1-2.500 2.500H11l-4.500 3.500V17A2.500 2.500 0 0 1 4 14.500z');
export const Close = icon('M6 6l12 12M18 6L6 18');
export const Sliders = icon('M4 7h10M18 7h2M4 17h2M10 17h10M16 5v4M8 15v4');
