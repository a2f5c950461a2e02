class CreatePayList { public static void main(String[] a) {} }
