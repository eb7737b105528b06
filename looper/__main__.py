from looper.cli import main

main()
